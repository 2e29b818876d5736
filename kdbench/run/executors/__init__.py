"""Where the groups of a run are trained: in this process, in several on this machine, or on a Ray cluster.

An executor takes units and gives what came of each, in the order in which they end; meanwhile it emits their events.
Records have the same bits whichever it is, for a unit is the same function of the same facts everywhere.
"""

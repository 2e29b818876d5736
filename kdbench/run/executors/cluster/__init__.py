"""Units as tasks of a Ray cluster: one that is there, or one of this machine that lasts as long as the run.

The run (``driven``) starts a process that speaks with Ray in its place (``driver``), for Ray ends who speaks with a
cluster which is gone. There ``crew`` hands out units one at a time; a ``task`` trains one where Ray puts it, and tells
what happens through a small actor (``post``). Where a node does not see the output folder, what it reads and makes
travels (``parcel``). ``ray`` itself is imported in ``connect`` alone.
"""

"""The fault campaign: thousands of things that go wrong, far too many for every run of the tests.

``make campaign`` runs all of it, ``make campaign AREA=kill TRIES=20`` a part. Each area is one file:

- ``kill``: kill -9 at random moments and at placed ones (a file opened, forced to disk, renamed, or written to the n-th
  byte) in training, teachers, tables, import, tuning and reports. The command is repeated: nothing that was
  finished is done again, and all that stays equals, to the bit, what a run that was never killed leaves.
- ``disk``: disks that are full after so many bytes, in memory, by the kernel's limit and, where the system lets us, as a
  real small disk. One sentence, and the same repetition.
- ``damage``: every kind of file that is read, with bits flipped, cut, empty, a folder in its place, of another type: the
  right numbers or a sentence, never a traceback, never a wrong table.
- ``lines``: command lines, valid and odd.
- ``company``: strangers' plug-ins beside honest methods, whose records keep their bits.
- ``screens``: terminals of all encodings and widths, closed pipes, full devices.

A campaign imports torch and kdbench once and forks a process for every command; neither it nor its workers ever run
autograd, whose threads do not survive a fork. What a try draws follows from the seed and its own name, so that each can
be repeated alone; what does not hold is told with the words that repeat it.
"""

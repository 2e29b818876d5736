"""Where curves go beside the records: CSV files, TensorBoard, Weights & Biases.

To add a logger: write a file here with a class that has the two functions of ``tracker.Tracker``, and enter it in
``known.KNOWN``. It is told one point per epoch of a cell, in a process of its own (``serve``), so that whatever it
does - raise, hang, end the process, lose the network - no run is stopped or changed by it. ``channel`` is the other
end: it never waits.
"""

"""The verbs of the `linnet` command, one file each: options, help, and the call of what does the work.

Heavy imports stand inside the functions, so that `linnet --help` is fast.
"""

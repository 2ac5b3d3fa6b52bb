"""Bad input, made in quantity: everything that parses bytes from outside is fed mutations of what is right.

`python -m fuzzing` runs it. A target (`fuzzing/targets`) is one function from bytes to nothing with the errors it may
raise; its seeds are made by our own encoders. Mutators (`fuzzing/mutate.py`) know the shapes of frames, records and
protobuf fields, so that changes reach below the first check. `fuzzing/engine.py` runs targets, watches lines of code,
time and memory, and reduces what it finds. The same seed and target are the same run on every machine.
"""

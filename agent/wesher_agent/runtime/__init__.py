"""What a running agent is made of; `app` starts and ends it.

The parts that decide (`identity`, `claims`, `health`, `probing`, `views`) are pure; the
others join the engine, the roster, the device and the files, which do not know
each other.
"""

"""The command line: which command was meant, and its answers as text for people."""

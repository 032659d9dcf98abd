"""The files that a command leaves for later readers: its log, a crash report, metrics."""

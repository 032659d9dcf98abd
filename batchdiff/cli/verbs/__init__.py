"""One module for each verb of the command line, and one for a shell's completion."""

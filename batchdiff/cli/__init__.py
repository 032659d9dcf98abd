"""The command line: arguments, console, exit codes; no other package prints or exits."""

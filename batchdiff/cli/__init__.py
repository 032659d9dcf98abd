"""The command line: arguments, console, exit codes; nothing else prints or exits."""

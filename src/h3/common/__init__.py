"""What every room stands on: errors, configuration, the command line, progress, files. A closed list."""

"""The `mldeploy` command line: one file per group of commands, loaded when a command of it is called."""

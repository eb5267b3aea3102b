"""Go's text/template, as much of it as `--format` needs. Start at `evaluate.Template`."""

"""The command line: one module per command.

Each module declares its options for typer and imports what it needs only when the command runs, so that
``tidewaiter --version`` and ``tidewaiter status`` answer at once. Commands raise `TidewaiterError`; `app.main` turns it
into one line and an exit code.
"""

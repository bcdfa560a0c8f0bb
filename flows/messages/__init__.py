"""Messages for people: lines on stderr and in the log of a flow run, progress, tables on stdout."""

"""Reading a run folder: audit, SQL queries, metrics, report. Nothing here writes what a run recorded."""

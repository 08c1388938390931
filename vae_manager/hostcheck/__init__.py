"""Does a WebUI have what our adapters use? Read from its source; nothing of it is imported or run.

`source` reads Python files and follows names in them, `checks` are the questions that can be asked of a source,
`requirements` is the table of what we ask, and `report` recognises the WebUI and answers the table for it.
"""

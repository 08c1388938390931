"""Does a WebUI have what our adapters use? Read from its source; nothing of it is imported or run.

`source` reads Python files and follows names in them, and `checks` are the questions that can be asked of a source.
What we ask comes from two places: `ours` reads our own adapters' syntax trees, and `derive` makes a question of every
name that they use; what must behave in some way is written down in `requirements`. `report` recognises the WebUI and
asks all of it.
"""

"""Run by the WebUI at every start. There is nothing to install: the hosts bring all that the extension needs."""

"""The page *VAE Manager*: a tab of the WebUI, and the same page by itself (`vae-manager ui`).

Each view is two files' worth: what it finds out, as plain values and HTML (`library_view`, `models_view` …), and its
few components in `views`. Nothing here knows a WebUI: a `House` says where the files are.
"""

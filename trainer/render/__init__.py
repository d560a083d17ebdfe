"""Facts to text: the HTML report, its plots, the model card and the terminal tables. No torch, no files, no network."""

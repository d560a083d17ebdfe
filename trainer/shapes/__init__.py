"""Types of the JSON files of a run folder, as their writers write them and their readers find them.

A key is required where the writer always writes it. A number that is not finite stands in a file as null.
"""

"""The decision between prompting, documents and tuning, and what each of them costs."""

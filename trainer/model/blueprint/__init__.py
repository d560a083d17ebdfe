"""What a recipe makes of a model, read from the model's class on the meta device, without its weights."""

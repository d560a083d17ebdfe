"""Run the commands beside the stages: bench, inspect, predict, chat, serve, and eval of any model."""

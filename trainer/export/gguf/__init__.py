"""Write GGUF files for llama.cpp and Ollama, and prove them by llama.cpp itself.

converter   llama.cpp's converter in a process of its own; it brings its own `gguf` package
runtime     llama.cpp in this process (the wheel `cyllama`): quantise, tokenize, log-probabilities, greedy answers
write       the files of an export, one for each quantisation, with Ollama's `Modelfile`
modelfile   Ollama's template, derived from the chat template and compared with it
go_template the part of Go's text/template that a Modelfile needs
reopen      a written file, reopened for the proof
"""

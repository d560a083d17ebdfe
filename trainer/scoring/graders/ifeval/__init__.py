"""IFEval: instructions about the form of an answer that a program can verify.

Source: Zhou et al., Instruction-Following Evaluation for Large Language Models, https://arxiv.org/abs/2311.07911.
"""

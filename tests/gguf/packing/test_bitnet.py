"""Ternary weights of BitNet, compared with the layers of transformers 5.24 and with llama.cpp's converter (b11434)."""

"""Compiler and executors of feature programs: block and streaming."""

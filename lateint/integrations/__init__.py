"""Retrievers in the shapes of other libraries: LangChain, LlamaIndex, Haystack.

Each module needs its own extra and is imported by its name (`lateint.integrations.langchain`). They
translate; what is found, and why, is the business of `Collection` and `Index`.
"""

"""The saved index: the embeddings and texts of a corpus in a folder, grown, checked against the model that made it, and
asked. How a search ranks is the business of `search`; this room stores what it needs.
"""

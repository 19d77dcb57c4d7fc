"""Work that is cut into shards and done by the workers of a Dask cluster: embeddings of many texts, and the nearest
documents of many queries. Both are to the bit what one machine computes.
"""

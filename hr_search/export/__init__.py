"""Models in other forms: an ONNX graph, the same with int8 weights, OpenVINO, a static table; and what each one costs.

An exported folder holds everything a text needs on its way to its embedding, and runs without this package. What is
published of a model on the Hub is chosen here, too, with the card beside it.
"""

"""What an evaluation measures beyond the metrics of lists: scores, popularity, the cold start.

Each file owns one block of the results document, from arrays to what stands in the file.
"""

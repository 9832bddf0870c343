"""The exercises of the book and their grader."""

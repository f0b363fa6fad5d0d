"""Not written yet."""


def check(root):
    return []

"""The sandbox: what test keys read. One recorded evening, at the same paths, the same for everybody and every time."""

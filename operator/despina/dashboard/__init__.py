"""The page for people: what every program does, live, and the buttons of those who may change it.

A process of its own with an account of its own: it lists and watches, and asks pods what they count; it holds neither
a right to write nor the key that orders are signed with. Whoever presses a button does so with their own token.
"""

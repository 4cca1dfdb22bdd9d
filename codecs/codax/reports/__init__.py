"""Reports: files measured once, averaged once, tabulated once.

`measure` makes rows of files, `store` keeps them as JSON of a declared kind, `layout`
lays rows out, and `held_out`, `comparisons`, `statistics`, `tables`, `published` and
`plots` say what reports are made of. `markers` fills tables and numbers into Markdown.
"""

"""The run as a page to look at: what it learned, what it wrote, who rewarded it, what bounds it, whether anything failed.

Reads run folders and changes nothing in them. A folder that is empty, half-written, from another version or still growing gives what
can be shown, and a line on what is missing.
"""

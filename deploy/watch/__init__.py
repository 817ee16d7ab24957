"""A page that lists the runs of a folder and stays when they end."""

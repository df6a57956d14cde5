"""How bytes travel: control messages and their channel, and the roads on which vectors meet."""

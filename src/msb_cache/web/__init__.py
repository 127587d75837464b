"""The server: homes shown live and read-only, to those who may ask; see docs/serve.md.

Starlette and uvicorn do HTTP, the extra ``web``: without it no other module of this room can be imported.
Nothing here writes to a home: it asks what ``AsyncImageCache`` answers.
"""

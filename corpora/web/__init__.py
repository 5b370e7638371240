"""The web as an index: a search API, a page reader with its manners (robots.txt, pauses, limits), and the answers kept on disk.

`apis` knows the search APIs, `pages` fetches pages, `html` reads them, `answers` keeps what was fetched, `retriever` joins
them. Nothing here is used unless an environment names `retriever="web"`.
"""

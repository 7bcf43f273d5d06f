# SPDX-License-Identifier: Apache-2.0
"""The review page: one file of HTML for the person who has to trust the diff.

`model` gathers what is to be shown, from a plan or from an adapted tree and its source; `page`
renders it. Nothing in the page comes from a network, and it has no time and no absolute path: the
same input gives the same bytes.
"""

from migrator.review.model import Review, review_plan, review_tree
from migrator.review.page import render_page

__all__ = ["Review", "render_page", "review_plan", "review_tree"]

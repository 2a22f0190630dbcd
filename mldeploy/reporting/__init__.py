"""What people are told of a rollout: composed from the log, rendered, and sent.

    values.py, figures.py, compose.py, difference.py   records and evidence -> one LaunchReport
    text.py, mail.py, page.py, plots.py                a LaunchReport as text, as a mail, as a page
    message.py, deliver.py and the ways beside it      a Message to where the policy says

Rules: composing and rendering are pure, and every name, reason and hostname is other people's text: cleaned
and escaped where it is written. Imports core and errors alone. Left out: reading the log (`store/tail.py`).
"""

-- the body comes by standard input, byte by byte as it was sent
\set body `cat`
\set signature `printf %s "$HTTP_X_MAILCHIMP_SIGNATURE"`
\set secret `printf %s "$WEBHOOK_SECRET"`
SELECT mc_receive_webhook(:'body', :'signature', :'secret');

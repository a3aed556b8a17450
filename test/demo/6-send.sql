-- Send. The call only writes down what is wanted; the worker does the rest after COMMIT: makes a segment
-- and the campaign, waits until Mailchimp has counted the recipients, and sends at most once.

SELECT mc_send_campaign(1);

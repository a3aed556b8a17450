
-- Mark looks around: which lists and templates are there, and is everything ready for use?

SELECT list_id, name, from_name, from_email, member_count FROM mc_list;
SELECT template_id, name, active FROM mc_template;
SELECT * FROM mc_check_connection('main');

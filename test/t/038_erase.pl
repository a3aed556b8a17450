# Erasing a person (N13, D9, D12, D15, N1, N2, N12, N18): nothing of the address is left here, it is deleted permanently in
# every list, and neither the source's own row nor anybody but who names the address brings it back. Figures stay. With
# requests under way, answers that are lost, refusals, open transactions, campaigns on their way, a dump.

use strict;
use warnings;
use Digest::MD5 qw(md5_hex);
use JSON::PP;
use McCrm;
use McTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $crm = McCrm->start('main', candidates => 40);
my ($node, $sim, $list) = @$crm{qw(node sim list)};
my $erase = 'POST /lists/{list_id}/members/{subscriber_hash}/actions/delete-permanent';

# A second account, with the same people, and somebody whom only it knows.
my $other = $sim->post('/_sim/accounts', { key => 'other-us1', lists => [ { name => 'Second' } ] })->{lists}[0]{id};
$node->query("CREATE SERVER other FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (endpoint '" . $sim->url . "'); ALTER SERVER other OWNER TO ann");
$crm->ann(q{SELECT mc_connect('other', 'other-us1'); SELECT mc_create_audience('second', 'other', 'Second', 'candidate', 'active AND id <= 10')});
$crm->sync;
$crm->sync('second');
is($crm->status('second'), 'in_sync 10', 'two audiences, two accounts');
$sim->post('/_sim/act', { list => $other, email => 'stranger@crm.test', action => 'add' });

sub act { my ($email, $action, %more) = @_; $sim->post('/_sim/act', { list => $list, email => $email, action => $action, %more }) }

# Where an address stands in our tables, and where its hash does.
my $tables = $node->query("SELECT string_agg(format('SELECT %L AS name, t::text AS line FROM %s t', c.relname, c.oid::regclass), ' UNION ALL ')
	FROM pg_class c WHERE c.relnamespace = 'mailchimp_sync'::regnamespace AND c.relkind = 'r'");
sub traces
{
	my ($email) = @_;
	my $hash = md5_hex($email);
	return $node->query("SELECT coalesce(string_agg(DISTINCT name || CASE WHEN line ILIKE '%$email%' THEN ' address' ELSE '' END, ', ' ORDER BY
			name || CASE WHEN line ILIKE '%$email%' THEN ' address' ELSE '' END), 'none')
		FROM ($tables) t WHERE line ILIKE '%$email%' OR line LIKE '%$hash%'");
}

# The lists of an export; complete, whoever asked.
sub sections
{
	my ($whom) = @_;
	return $node->query("SELECT string_agg(key, ' ' ORDER BY key COLLATE \"C\") FROM jsonb_each(mc_export_contact($whom)) WHERE jsonb_typeof(value) = 'array'");
}

sub forgotten
{
	my ($email, @lists) = @_;
	my $hash = md5_hex($email);
	return join ' ', map { scalar grep { $_ eq $hash } @{ $sim->get("/_sim/lists/$_/members")->{forgotten} } } @lists;
}

# Lists of the newest erasure, and whether it is done.
sub erasure
{
	return $crm->ann("SELECT string_agg(concat_ws(' ', connection, state), ', ' ORDER BY connection) || ' ' || coalesce((max(done_at) IS NOT NULL)::text, '')
		FROM mc_erasure WHERE erasure_id = (SELECT max(erasure_id) FROM mc_erasure)");
}

# -----------------------------------------------------------------------------------------------------------------
# By address: everywhere, for good
# -----------------------------------------------------------------------------------------------------------------

$crm->max("SELECT mc_opt_out('candidate', 1, 'asked me by letter'); SELECT mc_opt_in('candidate', 1); SELECT mc_opt_out('candidate', 1, 'c1\@crm.test again')");
$crm->run;
$crm->requests;
like(traces('c1@crm.test'), qr/contact address.* member address.* opt_out address.* opt_out_log address/, 'before: its traces');

is(sections("'c1\@crm.test'"), 'contacts members opt_out_history opt_outs', 'N13: the export has them all');
is($crm->ann("SELECT string_agg(concat_ws(' ', m ->> 'audience', m ->> 'list', m ->> 'email', m ->> 'status', m #>> '{shown_fields,FNAME}'), ', ' ORDER BY m ->> 'audience')
	FROM jsonb_array_elements(mc_export_contact('candidate', 1) -> 'members') m"), 'people Customers c1@crm.test unsubscribed F1, second Second c1@crm.test unsubscribed F1',
	'N13: with what Mailchimp shows, in each list');

$crm->ann("BEGIN; SELECT mc_erase_contact('c1\@crm.test'); ROLLBACK");
$crm->run;
is($crm->requests . erasure(), '', 'N1: who rolls back has erased nobody');
like($node->error("SELECT mc_erase_contact('c1\@crm.test')", as => 'max'), qr/42501/, 'it takes an admin');
like($node->error("SELECT mc_erase_contact(' ')", as => 'ann'), qr/22023/, 'and an address');

$crm->ann("SELECT mc_erase_contact(' C1\@crm.test ')");
is(erasure(), 'main waiting, other waiting false', 'asked for');
is($crm->max('SELECT count(*) FROM mc_erasure'), 0, 'mc_erasure is for admins');
$crm->run;
is($crm->requests, "$erase 204, $erase 204", 'one request for each list');
is(forgotten('c1@crm.test', $list, $other), '1 1', 'N13: deleted permanently in both');
is(erasure(), 'main erased, other erased true', 'and done');
is($crm->ann("SELECT DISTINCT email_hash, asked_by, detail FROM mc_erasure"), md5_hex('c1@crm.test') . '|ann|', 'mc_erasure: who asked, and a hash');
is(traces('c1@crm.test'), 'contact, erasure, opt_out', 'N13: the address is nowhere in our tables, its hash where it keeps the person out');
is($crm->rita("SELECT audience, email, state, detail FROM mc_contact_state WHERE contact_key = '1' ORDER BY 1"), "people||opted_out|was erased\nsecond||opted_out|was erased",
	'its row is still in the CRM: a contact without an address');
is($crm->rita("SELECT count(*) FROM mc_member WHERE email IS NULL OR email ~ '^c1\@'"), 0, 'and no member');
is($crm->rita("SELECT source, contact_key, email, origin, reason, added_by FROM mc_group_member ORDER BY contact_key"),
	"candidate|1||manual||max\n|||erasure||ann", 'the group has it without an address; its own opt-out holds');
is($node->query("SELECT count(*), count(email), count(reason) FROM mailchimp_sync.opt_out_log WHERE contact_key = '1'"), '3|0|0', 'so has its history');

# Nobody brings it back: neither the source's row, nor another one, nor people who mean its contact.
$crm->ann("INSERT INTO crm.candidate (id, first_name, email) VALUES (101, 'Twin', 'C1\@CRM.test');
	UPDATE crm.candidate SET first_name = 'Changed' WHERE id = 1; UPDATE crm.candidate SET email = 'c1\@crm.test ' WHERE id = 2");
$crm->max("SELECT mc_opt_out('candidate', 101, 'and now?'); SELECT mc_sync_member('candidate', 1)");
$crm->sync;
is($crm->requests, 'PATCH /lists/{list_id}/members/{subscriber_hash} 200, PATCH /lists/{list_id}/members/{subscriber_hash} 200',
	'nothing is sent, but that the one who has that address now is unsubscribed under the old one');
is(join(' ', map { $crm->state($_) } 1, 2, 101), 'opted_out|was erased opted_out|was erased opted_out|was erased', 'everybody with that address is opted out');
is(traces('c1@crm.test'), 'contact, erasure, opt_out', 'and none of it is kept');
is($crm->max("SELECT mc_is_opted_out('candidate', 2)"), 't', 'mc_is_opted_out');
$crm->max("SELECT mc_opt_in('candidate', 2)");
is($crm->max("SELECT mc_is_opted_out('candidate', 2)"), 't', 'mc_opt_in by the contact does not lift it');
is($crm->max("DELETE FROM mc_group_member WHERE origin = 'erasure' RETURNING 1"), '', 'nor does DELETE');
is($crm->max("SELECT count(*) FROM mc_preview('people') WHERE email ILIKE 'c1\@%'"), 0, 'the preview does not show it');
my $campaign = $crm->max("SELECT mc_create_campaign('Again', 'people', 'Newsletter', 'Max', 'max\@example.org')");
is($crm->max("SELECT mc_add_recipients($campaign, 'candidate', '{1,2,3}')"), 1, 'nor is it mailed');
is($crm->rita("SELECT contact_key, email, status, skip_reason, detail FROM mc_campaign_recipient WHERE contact_key <> '3' ORDER BY 1"),
	"1||skipped|opted_out|was erased\n2||skipped|opted_out|was erased", 'skipped, without an address');
is(traces('c1@crm.test'), 'contact, erasure, opt_out', 'of which none is kept either');

# Somebody who names the address lets it back; Mailchimp refuses it until the person signs up there.
$crm->requests;
$crm->max("SELECT mc_opt_in('candidate', 1); SELECT mc_opt_in('candidate', 101); SELECT mc_opt_in_email('c1\@crm.test')");
$crm->run;
is($crm->max("SELECT mc_is_opted_out('candidate', 1)"), 'f', 'mc_opt_in_email lifts it');
like($crm->state(1), qr/^refused\|.*permanently deleted/, 'Mailchimp refuses it');
act('c1@crm.test', 'resubscribe');
$crm->max('SELECT mc_retry()');
$crm->run;
is($crm->state(1) . $crm->shown('c1@crm.test'), 'in_sync|subscribed|Changed|g1', 'and takes it when the person has come back by a form');
$crm->ann('DELETE FROM crm.candidate WHERE id IN (2, 101)');
$crm->run;

# Somebody of whom only Mailchimp knows, and somebody of whom nobody does; 404 is as good.
$crm->requests;
$crm->ann("SELECT mc_erase_contact('stranger\@crm.test'); SELECT mc_erase_contact('nobody\@crm.test')");
$crm->run;
is(join(', ', sort split /, /, $crm->requests), join(', ', "$erase 204", ("$erase 404") x 3), 'asked of each list, whoever is there');
is(forgotten('stranger@crm.test', $other), '1', 'a stranger is deleted, too');
is(sections("'stranger\@crm.test'"), 'erasures opt_outs', 'N13: of who was erased the export has the suppression alone');
$crm->ann("INSERT INTO crm.candidate (id, email) VALUES (102, 'nobody\@crm.test')");
$crm->run;
is($crm->requests . $crm->state(102), 'opted_out|was erased', 'an import does not bring anybody');

# -----------------------------------------------------------------------------------------------------------------
# By contact: all that is known of it, under whatever address
# -----------------------------------------------------------------------------------------------------------------

# It opted out with an old address, which stays blocked for others.
$crm->max("SELECT mc_opt_out('candidate', 3); SELECT mc_opt_in_email('c3\@crm.test')");
$crm->ann("UPDATE crm.candidate SET email = 'three\@crm.test' WHERE id = 3");
$crm->run;
$crm->requests;
$crm->ann("SELECT mc_erase_contact('candidate', 3); SELECT mc_erase_contact('candidate', NULL::int)");
like($node->error("SELECT mc_erase_contact('candidates', 3)", as => 'ann'), qr/42704/, 'an unknown source');
$crm->run;
is($crm->ann("SELECT count(DISTINCT email_hash) FROM mc_erasure WHERE done_at IS NOT NULL AND asked_at = (SELECT max(asked_at) FROM mc_erasure)"), 2, 'the address in the CRM, and that at Mailchimp');
is(traces('three@crm.test'), 'contact, erasure, opt_out', 'the present one is erased');
unlike(traces('c3@crm.test'), qr/address/, 'and the former one');
$crm->ann("UPDATE crm.candidate SET email = 'newest\@crm.test' WHERE id = 3; INSERT INTO crm.candidate (id, email) VALUES (103, 'c3\@crm.test')");
$crm->run;
is($crm->state(3) . ' ' . $crm->state(103), 'opted_out|was erased opted_out|was erased', 'a third address does not bring the contact back, nor the old one somebody else');
is($crm->member('newest@crm.test')->{status} // 'none', 'none', 'so it is not at Mailchimp');
$crm->max("SELECT mc_opt_in('candidate', 3)");
$crm->run;
is($crm->shown('newest@crm.test'), 'subscribed|F3|g0', 'somebody who names the contact lets it in, with another address');

# One at Mailchimp under an address that it has no more in the CRM.
$crm->ann("SELECT mc_pause('main', 'people'); UPDATE crm.candidate SET email = 'moved\@crm.test' WHERE id = 4");
$crm->run;
$crm->ann("SELECT mc_erase_contact('c4\@crm.test'); SELECT mc_resume(audience => 'people')");
$crm->run;
is($crm->state(4) . forgotten('c4@crm.test', $list) . ($crm->member('moved@crm.test')->{status} // ''), 'opted_out|was erased1', 'it is not made anew under the other one');

# The key is the address.
$crm->ann(q{CREATE TABLE crm.lead (email text PRIMARY KEY); INSERT INTO crm.lead VALUES ('lead@crm.test');
	SELECT mc_add_source('lead', 'crm.lead', 'email', 'email', opt_out => 'true'); SELECT mc_opt_out('lead', 'lead@crm.test')});
$crm->ann("SELECT mc_erase_contact('lead', 'lead\@crm.test'); DELETE FROM crm.lead");
$crm->run;
is(traces('lead@crm.test'), 'erasure, opt_out', 'a key that is the address goes as well');
$crm->ann("SELECT mc_drop_source('lead')");

# -----------------------------------------------------------------------------------------------------------------
# Campaigns: the figures stay, and nobody can tell whose they are
# -----------------------------------------------------------------------------------------------------------------

sub send_to
{
	my ($name, $keys) = @_;
	my $id = $crm->max("SELECT mc_create_campaign('$name', 'people', 'Newsletter', 'Max', 'max\@example.org')");
	$crm->max("SELECT mc_add_recipients($id, 'candidate', '$keys')");
	$crm->max("SELECT mc_send_campaign($id)");
	$crm->run;
	return ($id, $crm->rita("SELECT mailchimp_id FROM mc_campaign WHERE campaign_id = $id"));
}

sub figures
{
	my ($id) = @_;
	return $crm->rita("SELECT r.recipients, r.skipped, emails_sent, total_opened, unique_opened, total_clicked, hard_bounces, unsubscribed, recorded_opened, recorded_clicked,
		(SELECT string_agg(opens::text, '+' ORDER BY opens) FROM mc_report_openers($id)),
		(SELECT string_agg(status, ' ' ORDER BY status) FROM mc_campaign_recipient WHERE campaign_id = $id)
		FROM mc_report r WHERE campaign_id = $id");
}

my ($id, $mailchimp_id) = send_to('Figures', '{5,6,7,8}');
sub happens { $sim->post('/_sim/events', { campaign => $mailchimp_id, email => "c$_[0]\@crm.test", action => $_[1], $_[2] ? (url => $_[2]) : () }) }
happens(5, 'open') for 1 .. 3;
happens(5, 'click', 'https://example.org/a');
happens(6, 'open');
happens(7, 'unsubscribe');
$crm->later(5);
$crm->max("SELECT mc_poll_campaign($id)");
$crm->run;
my $figures = figures($id);
is($figures, '4|0|4|4|2|1|0|1|4|1|1+3|clicked opened sent unsubscribed', 'a campaign and its figures');
is($crm->rita("SELECT email FROM mc_signal WHERE kind = 'unsubscribed'"), 'c7@crm.test', 'and a signal');
$crm->ann("SELECT mc_erase_contact('c5\@crm.test'); SELECT mc_erase_contact('candidate', 7)");
$crm->run;
is(figures($id), $figures, 'N13: the figures are what they were');
is($crm->rita("SELECT count(*) FROM mc_signal WHERE email IS NOT NULL OR contact_key IS NOT NULL"), 0, 'N13: the signal is gone');
is(join(' ', traces('c5@crm.test'), traces('c7@crm.test')), 'contact, erasure, opt_out contact, erasure, opt_out', 'and whose they are nobody can tell');
is($crm->rita("SELECT count(*), count(source), count(contact_key), count(email), count(reason) FROM mc_activity WHERE campaign_id = $id AND (source IS NULL OR contact_key <> '6')"), '5|0|0|0|0', 'nobody');
is($crm->rita("SELECT source, email, opens FROM mc_report_openers($id)"), "||3\ncandidate|c6\@crm.test|1", 'the others are known as before');
happens(5, 'open');
happens(6, 'open');
$crm->later(700);
$crm->max("SELECT mc_poll_campaign($id)");
$crm->run;
$crm->later(700);
$crm->run;
is(traces('c5@crm.test'), 'contact, erasure, opt_out', 'what it does later with that mail is not recorded');
is($crm->rita("SELECT total_opened, recorded_opened FROM mc_report WHERE campaign_id = $id"), '6|5', 'but counts in the totals of Mailchimp');

# Prepared: out of the segment, and not mailed, even if Mailchimp does not delete.
my $prepared = $crm->max("SELECT mc_create_campaign('Prepared', 'people', 'Newsletter', 'Max', 'max\@example.org')");
$crm->max("SELECT mc_add_recipients($prepared, 'candidate', '{8,9,10,11}'); SELECT mc_prepare_campaign($prepared)");
$crm->run;
sub segment { my ($segment) = grep { $_->{name} =~ /^$_[0] \[/ } @{ $sim->get("/_sim/segments/$list")->{segments} }; return join ' ', @{ $segment->{emails} } }
is(segment('Prepared'), join(' ', sort map { "c$_\@crm.test" } 8 .. 11), 'a prepared campaign');
my $fault = $sim->fault(method => 'POST', path => "^/lists/$list/.*delete-permanent", times => -1, fault => { type => 'status', status => 400, json => JSON::PP::true });
my $run = $node->session(as => 'max');
$crm->ann("SELECT mc_erase_contact('c8\@crm.test'); SELECT mc_erase_contact('c9\@crm.test')");
McTest::begin($run, 'CALL mc_run();');
McTest::poll('them to leave the segment', sub { segment('Prepared') eq 'c10@crm.test c11@crm.test' });
$node->wait_until("SELECT count(*) FILTER (WHERE state = 'waiting' AND attempts > 0) = 2 AND count(*) FILTER (WHERE state = 'erased') = 2
	FROM mc_erasure WHERE done_at IS NULL", as => 'ann');
pass('D12: out of the segment at once, though Mailchimp does not delete them');
$node->wait_until("SELECT string_agg(concat_ws(' ', email, status, skip_reason), ', ' ORDER BY email) =
	'c10\@crm.test pending, c11\@crm.test pending, skipped opted_out, skipped opted_out' FROM mc_campaign_recipient WHERE campaign_id = $prepared", as => 'rita');
unlike(traces('c8@crm.test'), qr/address/, 'they are skipped, and anonymous; here they are erased');
like($crm->ann("SELECT DISTINCT detail, next_attempt_at IS NOT NULL FROM mc_erasure WHERE state = 'waiting'"), qr/^.*Bad Request.*\|t$/, 'what Mailchimp says, in its words');
like($node->error("SELECT mc_opt_in_email('c8\@crm.test')", as => 'max'), qr/55000: the address is being erased/, 'nobody lets it back meanwhile');
$crm->max("SELECT mc_send_campaign($prepared)");
$node->wait_until("SELECT status = 'sent' FROM mc_campaign WHERE campaign_id = $prepared", as => 'max');
is(join(' ', sort map { $_->{email} } @{ $sim->get('/_sim/mails', campaign => $crm->rita("SELECT mailchimp_id FROM mc_campaign WHERE campaign_id = $prepared"))->{mails} }),
	'c10@crm.test c11@crm.test', 'N2: nobody who was erased is mailed');
is($crm->ann("SELECT ok, value FROM mc_status WHERE item = 'erasures'"), 't|2', 'mc_status counts what waits');
$crm->later(3601);
is($crm->ann("SELECT ok, detail ~ 'the oldest since' FROM mc_status WHERE item = 'erasures'"), 'f|t', 'after an hour it is an alarm');
$sim->delete("/_sim/faults/$fault");
$run->query('');
$crm->run;
is(erasure() . forgotten('c8@crm.test', $list) . forgotten('c9@crm.test', $list), 'main erased, other erased true11', 'it is tried until it is done');
is($crm->ann("SELECT ok, value FROM mc_status WHERE item = 'erasures'"), 't|0', 'then it is none any more');

# A campaign that failed keeps its segment until it is taken up; the member is gone from it by being deleted.
my $failed = $crm->max("SELECT mc_create_campaign('Failed', 'people', 'Unfinished', 'Max', 'max\@example.org')");
$crm->max("SELECT mc_add_recipients($failed, 'candidate', '{10,11}'); SELECT mc_send_campaign($failed)");
$crm->run;
is($crm->rita("SELECT status FROM mc_campaign WHERE campaign_id = $failed") . ' ' . segment('Failed'), 'failed c10@crm.test c11@crm.test', 'a failed campaign');
$crm->ann("SELECT mc_erase_contact('candidate', '10')");
$crm->run;
is(erasure() . ' ' . segment('Failed') . ' ' . traces('c10@crm.test'), 'main erased, other erased true c11@crm.test contact, erasure, opt_out', 'nothing of it is left there or here');

# One that is being sent is waited for.
$sim->post('/_sim/config', { send_seconds => 600 });
my $sending = $crm->max("SELECT mc_create_campaign('Sending', 'people', 'Newsletter', 'Max', 'max\@example.org')");
$crm->max("SELECT mc_add_recipients($sending, 'candidate', '{12,13}'); SELECT mc_send_campaign($sending)");
McTest::begin($run, 'CALL mc_run();');
$node->wait_until("SELECT status = 'sending' AND mailchimp_status = 'sending' FROM mc_campaign WHERE campaign_id = $sending");
$crm->ann("SELECT mc_erase_contact('c12\@crm.test')");
$node->wait_until("SELECT bool_and(state = 'erased' AND detail = 'waiting for campaign $sending') FROM mc_erasure WHERE done_at IS NULL");
$sim->post('/_sim/clock', { advance => 700 });
$node->query("ALTER SYSTEM SET mailchimp_sync.clock_offset = '" . ($crm->{later} += 700) . " s'; SELECT pg_reload_conf()");
$run->query('');
McTest::poll('its end', sub { $crm->run; erasure() eq 'main erased, other erased true' });
is($crm->rita("SELECT status FROM mc_campaign WHERE campaign_id = $sending") . ' ' . traces('c12@crm.test'), 'sent contact, erasure, opt_out', 'and erased when it is sent');
$sim->post('/_sim/config', { send_seconds => 0 });

# -----------------------------------------------------------------------------------------------------------------
# While a request is under way, and after doubt
# -----------------------------------------------------------------------------------------------------------------

sub erasings { return join ' ', map { $_->{status} // '-' } grep { $_->{route} eq $erase && $_->{path} =~ /\Q$list\E/ } $crm->journal }

$crm->journal;

# A push of the address is under way: the erasure comes after it, and the answer leaves nothing behind.
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'before');
$crm->ann("INSERT INTO crm.candidate (id, email) VALUES (110, 'c110\@crm.test')");
McTest::begin($run, 'CALL mc_run();');
$sim->wait_held;
$crm->ann("SELECT mc_erase_contact('c110\@crm.test')");
$node->wait_until("SELECT count(*) = 1 FROM mc_contact_state WHERE contact_key = '110' AND state = 'opted_out'");
is(erasings(), '', 'it waits for a push under way');
$sim->release;
$run->query('');
is(erasings() . ' ' . forgotten('c110@crm.test', $list), '204 1', 'and comes after it');
is(traces('c110@crm.test'), 'contact, erasure, opt_out', 'its answer is forgotten');

# Two contacts exchange their addresses, and one of them has stepped aside.
$sim->hold(method => 'PATCH', path => '/members/', nth => 2, when => 'before');
$crm->ann("UPDATE crm.candidate SET email = 'c' || (35 - id) || '\@crm.test' WHERE id IN (17, 18)");
McTest::begin($run, 'CALL mc_run();');
$sim->wait_held;
my %members = $crm->members;
my ($aside) = grep { /\+moving-/ } keys %members;
my ($key) = $members{$aside}{merge_fields}{FNAME} =~ /^F(17|18)$/;
$crm->ann("SELECT mc_erase_contact('candidate', '$key')");
$sim->release;
$run->query('');
is(forgotten($aside, $list) . ' ' . traces($aside), '1 erasure, opt_out', 'is deleted there');
$crm->journal;

# The push is lost: not before it can no longer land.
$crm->setting(request_timeout => '3s');
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'before');
$crm->ann("INSERT INTO crm.candidate (id, email) VALUES (111, 'c111\@crm.test')");
McTest::begin($run, 'CALL mc_run();');
$node->wait_until("SELECT count(*) = 1 FROM mailchimp_sync.inflight WHERE doubt_at IS NOT NULL");
$crm->ann("SELECT mc_erase_contact('c111\@crm.test')");
$run->query('');
$crm->run;
is(erasings() . ' ' . erasure(), ' main waiting, other erased false', 'it waits for the ghost of a push, but not in another list');
$sim->release;
McTest::poll('the old request to land', sub { $crm->member('c111@crm.test')->{status} });
$crm->setting(request_timeout => '59s');
$crm->later(131);
$crm->run;
is(erasings() . ' ' . forgotten('c111@crm.test', $list) . ' ' . traces('c111@crm.test'), '204 1 contact, erasure, opt_out', 'then nothing is left');

# Its own answer is lost, before or after it happened: repeated until there is one, and not before the first can no longer land.
my %faults = (reset_before => 20, html_504_after => 21, reset_after => 22, bare_429 => 23);
$crm->later(131);
$crm->run;
for my $name (sort keys %faults)
{
	my $address = "c$faults{$name}\@crm.test";
	$sim->fault(method => 'POST', path => "^/lists/$list/members/" . md5_hex($address), fault => $name);
	$crm->ann("SELECT mc_erase_contact('$address')");
}
sub asked { my ($name) = @_; return $sim->journal(path => "^/lists/$list/members/" . md5_hex("c$faults{$name}\@crm.test")) }
McTest::poll('all to be asked for', sub { $crm->run; return 1 unless grep { !asked($_) } keys %faults; $crm->later(5); return 0 });
for my $name (sort grep { !/429/ } keys %faults)
{
	is($crm->ann("SELECT string_agg(state, ' ' ORDER BY connection) FROM mc_erasure WHERE done_at IS NULL AND email_hash = '" . md5_hex("c$faults{$name}\@crm.test") . "'")
		. ' ' . asked($name), 'waiting erased 1', "$name: asked for once");
}
McTest::poll('all to be done', sub { $crm->later(131); $crm->run; $crm->ann('SELECT count(*) FROM mc_erasure WHERE done_at IS NULL') == 0 });
is(join(' ', map { forgotten("c$faults{$_}\@crm.test", $list) . (asked($_))[-1]{status} } sort keys %faults), '1204 1404 1404 1204',
	'and then once more, until there is an answer');

# -----------------------------------------------------------------------------------------------------------------
# Somebody's open transaction
# -----------------------------------------------------------------------------------------------------------------

my $session = $node->session(as => 'ann');
$crm->max("SELECT mc_opt_out('candidate', 14)");
$crm->run;
$session->query("BEGIN; SELECT mc_erase_contact('c14\@crm.test');");
$crm->ann("UPDATE crm.candidate SET first_name = 'meanwhile' WHERE id = 15");
$crm->run;
is($crm->shown('c15@crm.test'), 'subscribed|meanwhile|g0', 'an open erasure holds nobody up');
$session->query('COMMIT');
$session->query("BEGIN; DELETE FROM mc_group_member WHERE contact_key = '14';");
$crm->ann("UPDATE crm.candidate SET first_name = 'once more' WHERE id = 15");
McTest::begin($run, 'CALL mc_run();');
$node->wait_until("SELECT bool_and(state = 'erased') AND min(detail) = 'waiting for an open transaction' FROM mc_erasure WHERE done_at IS NULL", as => 'ann');
pass('what belongs to rows that somebody holds waits, and says so');
McTest::poll('c15', sub { $crm->shown('c15@crm.test') eq 'subscribed|once more|g0' });
pass('nor do such rows hold others up');
$session->query('ROLLBACK');
$run->query('');
$crm->later(301);
$crm->run;
is(erasure() . ' ' . traces('c14@crm.test'), 'main erased, other erased true contact, erasure, opt_out', 'and comes to its end afterwards');
$_->quit for $session, $run;

# -----------------------------------------------------------------------------------------------------------------
# A list that is paused, an audience and an account that are gone; a dump
# -----------------------------------------------------------------------------------------------------------------

$crm->ann("SELECT mc_pause('main', 'people'); SELECT mc_erase_contact('c15\@crm.test')");
$crm->run;
is(erasure(), 'main waiting, other erased false', 'a paused audience waits');
$crm->ann("SELECT mc_erase_contact('c15\@crm.test')");
is($crm->ann('SELECT count(*) FROM mc_erasure WHERE done_at IS NULL'), 2, 'asked for once more, it is the same one');

my $file = $node->basedir . '/erase.dump';
$node->command_ok([ 'pg_dump', '-Fp', '-f', $file, '-d', $node->connstr('postgres') ], 'dumped');
unlike(slurp_file($file) =~ s/^COPY crm\..*?^\\\.$//gmsr, qr/c(1[024]|7|8|9|110|111|15)\@crm\.test/, 'nobody who was erased is in the dump, but for the tables of the CRM');
$node->query('CREATE DATABASE copy');
$node->command_ok([ 'psql', '-X', '-q', '-1', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('copy'), '-f', $file ], 'restored');
my $what = "SELECT (SELECT count(*) FROM mailchimp_sync.erased), (SELECT string_agg(concat_ws(' ', erasure_id, connection, state, done_at), ', ' ORDER BY erasure_id, connection) FROM mc_erasure)";
is($node->query($what, db => 'copy'), $node->query($what), 'N14: suppressions and open erasures are in it');
$crm->later(1);
$node->query("SELECT mc_resume(); SELECT mc_resume(audience => 'people')", db => 'copy');
$node->query('CALL mc_run()', db => 'copy');
is($node->query("SELECT count(*) FROM mc_erasure WHERE done_at IS NULL", db => 'copy') . ' ' . forgotten('c15@crm.test', $list), '0 1', 'and go on in the copy');

$crm->ann("SELECT mc_drop_audience('people')");
$crm->requests;
$crm->run;
is($crm->requests . ' ' . erasure(), "$erase 404 main erased, other erased true", 'its audience was dropped: the list is told nevertheless');

$sim->fault(method => 'POST', path => 'delete-permanent', fault => { type => 'status', status => 503, json => JSON::PP::true, headers => { 'retry-after' => '600' } });
$crm->ann("SELECT mc_erase_contact('c16\@crm.test')");
$crm->run;
$sim->post('/_sim/accounts', { key => 'third-us1', lists => [ { name => 'Third' } ] });
$crm->ann("SELECT mc_connect('other', 'third-us1', switch_account => true)");
$crm->run;
is(erasure() . ' ' . $crm->ann("SELECT detail FROM mc_erasure WHERE state = 'lost'"), 'other lost true the connection was switched to another account', 'another account: out of reach, and that is said');

done_testing();

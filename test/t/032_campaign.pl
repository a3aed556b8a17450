# A campaign on its way (R19-R36, R48, R110, D5, D8, D12, N2, design.md rule 6): skipped with a reason of each kind,
# data refreshed, opt-outs at every stage, counting, the checklist, what is left over at Mailchimp.

use strict;
use warnings;
use McCampaign;
use McTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $crm = McCampaign->start(people => 12);
my ($sim, $node) = @$crm{qw(sim node)};

sub mails
{
	my ($name) = @_;
	my $remains = $crm->remains($name);
	return join ' ', $remains =~ /\bp(\d+)@/g;
}

sub member
{
	my ($email) = @_;
	return (grep { $_->{email_address} eq $email } @{ $sim->get("/_sim/lists/$crm->{list}/members")->{members} })[0];
}

sub domain_verified
{
	my ($account) = @{ $sim->get('/_sim/state')->{accounts} };
	return $sim->post('/_sim/act', { account => $account->{account_id}, action => 'set_domain', domain => 'example.org', verified => $_[0] });
}

sub act { my ($email, $action, %more) = @_; $sim->post('/_sim/act', { list => $crm->{list}, email => $email, action => $action, %more }) }

sub wait_detail
{
	my ($campaign, $pattern) = @_;
	McTest::poll("$pattern in last_error", sub { $crm->column($campaign, 'last_error') =~ $pattern });
}

# ---- prepared: everything there, nothing sent (R26, D5); recipients are joined and their data is newest (R31, R32)

$crm->ada(<<'SQL');
INSERT INTO candidate (id, email, in_rule) VALUES (20, 'p20@example.org', false), (21, NULL, false), (22, 'broken', false),
	(23, 'fake23@example.com', false), (24, 'P1@example.org', false), (25, 'p25@example.org', false);
UPDATE candidate SET linked = false WHERE id = 25;
SQL
my $campaign = $crm->campaign('Spring', '{1,2,3,20,21,22,23,24,25}');
is($crm->recipients($campaign), '1 pending, 2 pending, 3 pending, 20 pending, 21 skipped no_email, 22 skipped invalid_email, '
	  . '23 pending, 24 skipped duplicate, 25 skipped not_linked', 'reasons at once');
$crm->ada("UPDATE candidate SET first_name = 'Newest' WHERE id = 1");
$crm->ada("UPDATE candidate SET email = 'p21\@example.org' WHERE id = 21");
$crm->mia("SELECT mc_prepare_campaign($campaign)");
$crm->wait_status($campaign, 'prepared');
is($crm->remains('Spring'), 'campaigns 1 sends 0 segments 1', 'prepared and not sent');
is($crm->recipients($campaign), '1 pending, 2 pending, 3 pending, 20 pending, 21 pending, 22 skipped invalid_email, '
	  . '23 skipped refused, 24 skipped duplicate, 25 skipped not_linked', 'decided anew; what Mailchimp refused is skipped (D8)');
is(member('p1@example.org')->{merge_fields}{FNAME}, 'Newest', 'newest data (R32)');
is(member('p20@example.org')->{status}, 'subscribed', 'who was no member was joined (R31)');
like($crm->column($campaign, 'edit_url'), qr{^https://us1\.admin\.mailchimp\.com/campaigns/edit\?id=\d+$}, 'the page to go on at Mailchimp');
is($crm->mia("SELECT count(*) FILTER (WHERE ok), count(*) FILTER (WHERE NOT ok) FROM mc_check_campaign($campaign)") =~ /^\d+\|0$/, 1,
	'checked: ready');
like($node->error("SELECT mc_alter_campaign($campaign, '{\"template\": \"Invitation\"}')", as => 'mia'),
	qr/template of campaign $campaign cannot be changed.*HINT:  Delete it with mc_delete_campaign/s, 'the template stays (R36)');
like($node->error("SELECT mc_add_recipients($campaign, 'candidate', '{4}')", as => 'mia'), qr/recipients are fixed/, 'recipients stay');

# ---- what may still change goes to Mailchimp; edits that people made there are kept

$crm->mia("SELECT mc_alter_campaign($campaign, '{\"subject\": \"Hello *|FNAME|*\"}')");
$crm->wait_status($campaign, 'prepared');
my ($theirs) = grep { $_->{title} =~ /^Spring/ } @{ $sim->get('/_sim/campaigns')->{campaigns} };
is(scalar($sim->journal(method => 'PUT', path => '/content$')), 1, 'the content is put in once');
is(($sim->journal(method => 'PATCH', path => '^/campaigns/'))[0]{body}{settings}{subject_line}, 'Hello *|FNAME|*', 'the new subject');

# ---- opting out after the segment is filled: out of it at once, also while nothing is asked for (D12, N2)

$crm->mia("SELECT mc_opt_out('candidate', 2)");
McTest::poll('p2 to leave the segment', sub {
	my ($segment) = $crm->segments('Spring');
	join(' ', @{ $segment->{emails} }) eq 'p1@example.org p20@example.org p21@example.org p3@example.org';
});
# to send it while somebody is being taken out begins at the start all the same: with the newest data (R32)
my $taking = $sim->hold(method => 'POST', path => '/segments/\d+$', when => 'after');
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'before');
$crm->mia("SELECT mc_opt_out_email('p3\@example.org')");
$sim->wait_held;
$crm->ada("UPDATE candidate SET first_name = 'Latest' WHERE id = 1");
$crm->mia("SELECT mc_send_campaign($campaign)");
$sim->release(hold => $taking);
wait_detail($campaign, qr/waiting until its contacts are up to date/);
$sim->release;
$crm->wait_status($campaign, 'sent');
is(member('p1@example.org')->{merge_fields}{FNAME}, 'Latest', 'newest data once more (R32)');
is(mails('Spring'), '1 20 21', 'sent, and neither of them got it (R27)');
is($crm->recipients($campaign), '1 sent, 2 skipped opted_out, 3 skipped opted_out, 20 sent, 21 sent, 22 skipped invalid_email, '
	  . '23 skipped refused, 24 skipped duplicate, 25 skipped not_linked', 'everybody has one status');
is($crm->column($campaign, "emails_sent || ' ' || (sent_at IS NOT NULL) || ' ' || (report_url IS NOT NULL)"), '3 true true', 'the report can come (R37)');
like($node->error("SELECT mc_send_campaign($campaign)", as => 'mia'), qr/it is sent/, 'once');
$crm->mia('SELECT mc_poll_campaign(' . $campaign . ')');

# ---- an opt-out between the last count and the order to send is still in time (N2)

$campaign = $crm->campaign('Late', '{4,5,6}');
$sim->hold(method => 'POST', path => '/segments/\d+$', when => 'after');
$sim->hold(method => 'GET', path => 'send-checklist', when => 'after');
$crm->mia("SELECT mc_send_campaign($campaign)");
my ($held) = $sim->wait_held;
is($crm->mia('SELECT work, audience, campaign_id, phase, done, total FROM mc_progress'), "campaign|customers|$campaign|filling|0|3", 'mc_progress: on its way');
$sim->release(n => $held->{n});
$sim->wait_held;
is($crm->mia('SELECT phase, done, total FROM mc_progress'), 'checking|3|3', 'and further');
$crm->mia("INSERT INTO mc_group_member (source, contact_key) VALUES ('candidate', '5')");
$sim->release;
$crm->wait_status($campaign, 'sent');
is(mails('Late'), '4 6', 'out of the segment before it was sent');

# ---- an opt-out that is open while recipients are fixed is waited for; the one who holds us up is named

$campaign = $crm->campaign('Open', '{4,6,7}');
my $session = $node->session(as => 'mia');
$session->query("BEGIN; SELECT mc_opt_out('candidate', 7);");
my $pid = $session->query('SELECT pg_backend_pid()');
$crm->mia("SELECT mc_send_campaign($campaign)");
wait_detail($campaign, qr/waiting for open transactions that opt somebody out: process $pid\b/);
is($crm->mia("SELECT mc_opt_out('candidate', 8)"), '', 'others opt out meanwhile');
$session->query('COMMIT');
$session->quit;
$crm->wait_status($campaign, 'sent');
is(mails('Open'), '4 6', 'who was opting out got nothing');

# ---- an audience that is paused sends nothing

$campaign = $crm->campaign('Paused', '{4,6}');
$sim->hold(method => 'GET', path => 'send-checklist', when => 'after');
$crm->mia("SELECT mc_send_campaign($campaign)");
$sim->wait_held;
$crm->ada("SELECT mc_pause('demo', 'customers')");
$sim->release;
$node->wait_until('SELECT NOT EXISTS (SELECT FROM mailchimp_sync.inflight)');
$crm->mia('CALL mc_run()');
is($crm->column($campaign, 'status'), 'preparing', 'not sent while its audience is paused');
$crm->ada("SELECT mc_resume(audience => 'customers')");
$crm->wait_status($campaign, 'sent');
is(mails('Paused'), '4 6', 'and sent after that');

# ---- who left at Mailchimp, or never was there where only members are mailed

act('p9@example.org', 'unsubscribe');
act('p10@example.org', 'clean');
$campaign = $crm->campaign('Gone', '{4,9,10}');
$crm->ada("UPDATE candidate SET first_name = 'x' WHERE id IN (9, 10)");
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'sent');
is(mails('Gone'), '4', 'nobody who left is mailed');
is($crm->recipients($campaign), '4 sent, 9 skipped opted_out, 10 skipped unsubscribed', 'and the reasons are known');
$crm->ada("SELECT mc_alter_audience('customers', '{\"recipients\": \"members\"}')");
$crm->ada("INSERT INTO candidate (id, email, in_rule) VALUES (30, 'p30\@example.org', false)");
$campaign = $crm->campaign('Members', '{4,30}');
is($crm->recipients($campaign), '4 pending, 30 skipped not_member', 'members only');
$crm->ada("SELECT mc_alter_audience('customers', '{\"recipients\": \"join\"}')");
$crm->mia("SELECT mc_cancel_campaign($campaign)");

# ---- Mailchimp counts later, and somebody is missing in the end: found by walking the segment, skipped, the others get it

$sim->post('/_sim/config', { count_seconds => 0, count_looks => 4 });
$campaign = $crm->campaign('Slow', '{4,6}');
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'sent');
is(mails('Slow'), '4 6', 'waited for the count');
$sim->post('/_sim/config', { count_looks => 1 });
$campaign = $crm->campaign('Missing', '{4,6,11}');
$sim->hold(method => 'PUT', path => '/content$', when => 'before');
$crm->mia("SELECT mc_send_campaign($campaign)");
$sim->wait_held;
act('p11@example.org', 'clean');
$sim->release;
$crm->wait_status($campaign, 'sent');
is(mails('Missing'), '4 6', 'the others got it');
is($crm->recipients($campaign), '4 sent, 6 sent, 11 skipped unsubscribed', 'the missing one is known');
is(scalar($sim->journal(method => 'GET', path => '/segments/\d+/members$')), 1, 'by one walk of the segment');
$campaign = $crm->campaign('Extra', '{4,6}');
$sim->hold(method => 'PUT', path => '/content$', when => 'before');
$crm->mia("SELECT mc_send_campaign($campaign)");
$sim->wait_held;
my ($segment) = $crm->segments('Extra');
act('p12@example.org', 'tag', tag => $segment->{name});
$sim->release;
$crm->wait_status($campaign, 'failed');
is(mails('Extra'), '', 'somebody else is in the segment: never sent');
like($crm->column($campaign, 'last_error'), qr/^too many recipients: Mailchimp counts 3 recipients, and only 2 were put in$/, 'and why');
is($crm->mia("SELECT title FROM mc_failure WHERE work = 'campaign' AND campaign_id = $campaign"), 'too many recipients', 'an entry in mc_failure');
act('p12@example.org', 'untag', tag => $segment->{name});
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'sent');
is($crm->remains('Extra'), 'campaigns 1 sends 1 segments 1 p4@example.org=1 p6@example.org=1', 'taken up again where it was');

# ---- not ready: every reason is shown, deleting is the way out, at Mailchimp too (R34, R35)

$campaign = $crm->campaign('Unfinished', '{4}');
$crm->mia("SELECT mc_alter_campaign($campaign, '{\"template\": \"Unfinished\"}')");
$sim->hold(method => 'GET', path => 'send-checklist', when => 'before');
$crm->mia("SELECT mc_send_campaign($campaign)");
$sim->wait_held;
domain_verified(JSON::PP::false);
$sim->release;
$crm->wait_status($campaign, 'failed');
like($crm->column($campaign, 'last_error'), qr/^not ready: .+; .+/, 'two reasons');
is($crm->mia("SELECT count(*) > 2 FROM mc_check_campaign($campaign) WHERE NOT ok"), 't', 'mc_check_campaign shows them');
domain_verified(JSON::PP::true);
$crm->mia("SELECT mc_delete_campaign($campaign)");
$crm->wait_status($campaign, 'deleted');
is($crm->remains('Unfinished'), 'campaigns 0 sends 0 segments 0', 'nothing is left at Mailchimp');
is($crm->mia("SELECT count(*) FROM mc_failure WHERE campaign_id = $campaign"), 0, 'nor in mc_failure');

# ---- cancelled at any stage: nothing is left over

for my $stage (['POST', '/segments$'], ['POST', '/segments/\d+$'], ['POST', '^/campaigns$'], ['PUT', '/content$'], ['GET', 'send-checklist'])
{
	my ($method, $path) = @$stage;
	for my $when (qw(before after))
	{
		$campaign = $crm->campaign('Cancelled', '{4,6}');
		$sim->hold(method => $method, path => $path, when => $when);
		$crm->mia("SELECT mc_send_campaign($campaign)");
		$sim->wait_held;
		$crm->mia("SELECT mc_cancel_campaign($campaign)");
		$sim->release;
		$crm->wait_status($campaign, 'canceled');
		is($crm->remains('Cancelled'), 'campaigns 0 sends 0 segments 0', "cancelled $when $method $path");
	}
}
$campaign = $crm->campaign('Prepared', '{4}');
$crm->mia("SELECT mc_prepare_campaign($campaign)");
$crm->wait_status($campaign, 'prepared');
$crm->mia("SELECT mc_cancel_campaign($campaign)");
$crm->wait_status($campaign, 'canceled');
is($crm->remains('Prepared'), 'campaigns 0 sends 0 segments 0', 'cancelled when it was prepared');
$crm->mia("SELECT mc_delete_campaign($campaign)");
$crm->wait_status($campaign, 'deleted');

# ---- somebody else was faster at Mailchimp

$campaign = $crm->campaign('Theirs', '{4}');
$crm->mia("SELECT mc_prepare_campaign($campaign)");
$crm->wait_status($campaign, 'prepared');
$sim->post('/_sim/act', { campaign => $crm->column($campaign, 'mailchimp_id'), action => 'send' });
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'sent');
is($crm->remains('Theirs'), 'campaigns 1 sends 1 segments 1 p4@example.org=1', 'sent at Mailchimp: not once more');
$campaign = $crm->campaign('Lost', '{4}');
$crm->mia("SELECT mc_prepare_campaign($campaign)");
$crm->wait_status($campaign, 'prepared');
$sim->post('/_sim/act', { campaign => $crm->column($campaign, 'mailchimp_id'), action => 'delete' });
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'failed');
like($crm->column($campaign, 'last_error'), qr/the campaign is gone at Mailchimp/, 'deleted at Mailchimp: never made again');

# ---- everybody opted out: nothing to send

$campaign = $crm->campaign('Nobody', '{6}');
$sim->hold(method => 'POST', path => '/segments$', when => 'before');
$crm->mia("SELECT mc_send_campaign($campaign)");
$sim->wait_held;
$crm->mia("SELECT mc_opt_out('candidate', 6)");
$sim->release;
$crm->wait_status($campaign, 'failed');
like($crm->column($campaign, 'last_error'), qr/^nobody is left to mail: 1 opted_out$/, 'a campaign to nobody fails');
is($crm->remains('Nobody'), 'campaigns 0 sends 0 segments 1', 'and was never made');

like(slurp_file($node->logfile), qr/^\tcampaign \d+ "\w+": [a-z ]+, \d+ of \d+ recipients/m, 'mc_run tells it');

$node->stop;
done_testing();

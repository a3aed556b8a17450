# A mail goes out once, also after a restore (N3, N14, design.md rules 6 and 10): a dump is taken at any instant of a
# campaign's way, the original goes on or dies, and the copy is told to go on. It looks at Mailchimp before it makes or
# sends anything: what was sent is adopted with its figures, what was not is taken over, and nothing is left behind.

use strict;
use warnings;
use McCampaign;
use McTest;
use Test::More;

my $crm = McCampaign->start(people => 8);
my ($sim, $node) = @$crm{qw(sim node)};
my $copies = 0;
# an audience of some age: in a copy its statuses are read before anything is pushed
$crm->later(700);

sub copy_of { return $crm->restore($_[0], 'copy' . ++$copies) }

# What both know of a campaign.
sub known
{
	my ($where, $campaign) = @_;
	return $where->column($campaign, "concat_ws(' ', status, mailchimp_status, mailchimp_id, emails_sent, sent_at, archive_url, recipients, skipped)")
	  . ': ' . $where->recipients($campaign);
}

sub all_remains { my ($name) = @_; return $crm->remains($name) . ' total ' . scalar @{ $sim->get('/_sim/mails')->{mails} } }

# ---- the original goes on and sends

sub held_at
{
	my (%where) = @_;
	return sub {
		my ($campaign) = @_;
		$sim->hold(%where);
		$crm->mia("SELECT mc_send_campaign($campaign)");
		$sim->wait_held;
		my $dump = $crm->dump;
		$sim->release;
		return $dump;
	};
}

my %instants = (
	'as a draft' => sub { my $dump = $crm->dump; $crm->mia("SELECT mc_send_campaign($_[0])"); return $dump },
	'after mc_send_campaign' => sub {
		$crm->break_off;
		$crm->mia("SELECT mc_send_campaign($_[0])");
		my $dump = $crm->dump;
		$crm->run_engine;
		return $dump;
	},
	'before the segment is made' => held_at(method => 'POST', path => '/segments$', when => 'before'),
	'when the segment is made' => held_at(method => 'POST', path => '/segments$', when => 'after'),
	'when the segment is filled' => held_at(method => 'POST', path => '/segments/\d+$', when => 'after'),
	'before the campaign is made' => held_at(method => 'POST', path => '^/campaigns$', when => 'before'),
	'when the campaign is made' => held_at(method => 'POST', path => '^/campaigns$', when => 'after'),
	'when it is prepared' => sub {
		$crm->mia("SELECT mc_prepare_campaign($_[0])");
		$crm->wait_status($_[0], 'prepared');
		my $dump = $crm->dump;
		$crm->mia("SELECT mc_send_campaign($_[0])");
		return $dump;
	},
	'before it is sent' => held_at(method => 'POST', path => '/send$', when => 'before'),
	'when it is sent' => held_at(method => 'POST', path => '/send$', when => 'after'),
	'while it is sent' => sub {
		my ($campaign) = @_;
		$sim->post('/_sim/config', { send_seconds => 600 });
		$crm->mia("SELECT mc_send_campaign($campaign)");
		McTest::poll('Mailchimp to send it', sub { $crm->column($campaign, "status || ' ' || mailchimp_status") eq 'sending sending' });
		my $dump = $crm->dump;
		$sim->post('/_sim/clock', { advance => 700 });
		$sim->post('/_sim/config', { send_seconds => 0 });
		return $dump;
	});

for my $instant (sort keys %instants)
{
	my $name = 's' . ($copies + 1);
	my $campaign = $crm->campaign($name, '{1,2,3}');
	my $dump = $instants{$instant}->($campaign);
	$crm->wait_status($campaign, 'sent');
	my $remains = all_remains($name);
	like($remains, qr/^campaigns 1 sends 1 segments 1 p1\@example\.org=1 p2\@example\.org=1 p3\@example\.org=1 total/, "dumped $instant: sent by the original");
	my $copy = copy_of($dump);
	$copy->ada('SELECT mc_resume()');
	$copy->mia("SELECT mc_send_campaign($campaign)") if $copy->column($campaign, 'status') =~ /^(draft|prepared)$/;
	$copy->mia('CALL mc_run()');
	is(known($copy, $campaign), known($crm, $campaign), 'the copy adopts it, at once, and knows all that the original knows');
	$copy->later(200);
	$copy->mia('CALL mc_run()');
	is(all_remains($name), $remains, 'and has neither sent it again nor made anything');
	is($copy->super('SELECT count(*) FROM mailchimp_sync.campaign WHERE restored_at IS NOT NULL AND status = \'sent\''), 0, 'the search is over');
}

# ---- whom the original mailed and the copy does not know of; who opted out in the copy, too late

my $campaign = $crm->campaign('Others', '{1,2}');
my $dump = $crm->dump;
$crm->mia("SELECT mc_add_recipients($campaign, 'candidate', '{4}'); SELECT mc_remove_recipients($campaign, 'candidate', '{1}')");
$crm->ada("INSERT INTO candidate VALUES (9, 'p9\@example.org', 'P9')");
$crm->mia("SELECT mc_add_recipients($campaign, 'candidate', '{9}')");
$crm->mia("SELECT mc_alter_campaign($campaign, '{\"name\": \"Others, really\"}')");
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'sent');
my $copy = copy_of($dump);
$copy->mia("SELECT mc_opt_out('candidate', 2)");
$copy->ada('SELECT mc_resume()');
$copy->mia("SELECT mc_send_campaign($campaign)");
$copy->mia('CALL mc_run()');
is($copy->mia("SELECT string_agg(concat_ws(' ', contact_key, email, status, skip_reason), ', ' ORDER BY email) FROM mc_campaign_recipient
	WHERE campaign_id = $campaign"), '1 p1@example.org skipped not_member, 2 p2@example.org sent, 4 p4@example.org sent, '
	  . md5_of('p9@example.org') . ' p9@example.org sent', 'they are those to whom Mailchimp has sent it');
is($copy->column($campaign, 'emails_sent'), 3, 'as many as it says');
$copy->mia("SELECT mc_delete_campaign($campaign)");
$copy->mia('CALL mc_run()');
is($crm->remains('Others, really'), 'campaigns 0 sends 0 segments 0', 'and deleting it takes away what the original made');

sub md5_of { return $node->query("SELECT md5('$_[0]')") }

# ---- the original dies on the way, after the dump: the copy takes over what there is, and sends it once

for my $death ([ 'POST', '/segments$', 'after' ], [ 'POST', '/segments/\d+$', 'after' ], [ 'POST', '^/campaigns$', 'after' ],
	[ 'PUT', '/content$', 'after' ], [ 'GET', '/send-checklist$', 'before' ], [ 'POST', '^/campaigns$', 'late' ], [ 'POST', '/send$', 'late' ])
{
	my ($method, $path, $when) = @$death;
	my $name = 'd' . ($copies + 1);
	my $campaign = $crm->campaign($name, '{5,6,7}');
	$crm->break_off;
	$crm->mia("SELECT mc_send_campaign($campaign)");
	my $dump = $crm->dump;
	$sim->hold(method => $method, path => $path, when => $when eq 'late' ? 'before' : $when);
	$crm->run_engine;
	$sim->wait_held;
	$crm->break_off(1);
	# reads that died with it would take slots from the copy for longer than its campaign waits
	$crm->later(140);
	$sim->release unless $when eq 'late';
	my $copy = copy_of($dump);
	# who was put into the segment by the original
	$copy->mia("SELECT mc_opt_out('candidate', 6)");
	$copy->ada('SELECT mc_resume()');
	$copy->mia('CALL mc_run()');
	is($copy->column($campaign, 'status'), 'preparing', "the original died at $method $path, $when: the copy waits");
	like($copy->column($campaign, 'last_error'), qr/^waiting until requests of the database that this is a copy of/, 'and says why');
	$sim->release if $when eq 'late';
	$copy->run_engine;
	$copy->wait_status($campaign, 'sent');
	# one that is found sent is so at once, then those who got it are read
	$node->wait_until("SELECT goal IS NULL FROM mailchimp_sync.campaign WHERE campaign_id = $campaign", db => $copy->{db});
	is($crm->remains($name), 'campaigns 1 sends 1 segments 1 p5@example.org=1 p7@example.org=1', 'sent once, not to who opted out in the copy');
	is($copy->recipients($campaign), '5 sent, 6 skipped opted_out, 7 sent', 'everybody has one status');
	is($copy->mia('SELECT count(*) FROM mc_failure'), 0, 'nothing failed');
	$copy->break_off;
	# the original, as if it had never been
	$node->query("UPDATE mailchimp_sync.campaign SET status = 'canceled', goal = NULL, step = NULL WHERE campaign_id = $campaign");
	$copy->mia("SELECT mc_opt_in('candidate', 6)");
	$sim->post('/_sim/act', { list => $crm->{list}, email => 'p6@example.org', action => 'delete_permanent' });
	$sim->post('/_sim/act', { list => $crm->{list}, email => 'p6@example.org', action => 'resubscribe' });
	# the requests of those who died count against the slots of the server for a while
	$crm->later(140);
	$crm->run_engine;
}

# ---- what people did at Mailchimp meanwhile stays

$campaign = $crm->campaign('Edited', '{1,3}');
$dump = $crm->dump;
$crm->mia("SELECT mc_prepare_campaign($campaign)");
$crm->wait_status($campaign, 'prepared');
$copy = copy_of($dump);
$copy->ada('SELECT mc_resume()');
my ($last) = sort { $b <=> $a } map { $_->{n} } $sim->journal;
$copy->mia("SELECT mc_send_campaign($campaign)");
$copy->run_engine;
$copy->wait_status($campaign, 'sent');
is($copy->column($campaign, 'mailchimp_id'), $crm->column($campaign, 'mailchimp_id'), 'the one that was made is sent');
is(scalar($sim->journal(method => 'PUT', path => '/content$', since => $last)), 0, 'its content is not put in again');
is($crm->remains('Edited'), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p3@example.org=1', 'sent once');
$copy->break_off;

$campaign = $crm->campaign('Renamed', '{1,3}');
$dump = $crm->dump;
$crm->mia("SELECT mc_prepare_campaign($campaign)");
$crm->wait_status($campaign, 'prepared');
$sim->post('/_sim/act', { campaign => $crm->column($campaign, 'mailchimp_id'), action => 'edit', settings => { title => 'Our own' } });
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'sent');
my $mails = @{ $sim->get('/_sim/mails')->{mails} };
$copy = copy_of($dump);
$copy->ada('SELECT mc_resume()');
$copy->mia("SELECT mc_send_campaign($campaign)");
$copy->mia('CALL mc_run()');
is(known($copy, $campaign), known($crm, $campaign), 'found by its segment, though somebody gave it another title');
is(scalar(@{ $sim->get('/_sim/mails')->{mails} }), $mails, 'and not sent again');

# ---- files that were taken back to an earlier state do not know it: looked for before it is made

$campaign = $crm->campaign('Back', '{1,3}');
$crm->break_off;
$node->query("CREATE TABLE earlier AS SELECT * FROM mailchimp_sync.campaign WHERE campaign_id = $campaign");
$node->query("CREATE TABLE earlier_recipient AS SELECT * FROM mailchimp_sync.recipient WHERE campaign_id = $campaign");
$crm->run_engine;
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'sent');
my $sent = known($crm, $campaign);
$crm->break_off;
$node->query("DELETE FROM mailchimp_sync.campaign WHERE campaign_id = $campaign; INSERT INTO mailchimp_sync.campaign SELECT * FROM earlier;
	DELETE FROM mailchimp_sync.recipient WHERE campaign_id = $campaign; INSERT INTO mailchimp_sync.recipient SELECT * FROM earlier_recipient");
is($crm->column($campaign, 'status'), 'draft', 'back');
$crm->run_engine;
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'sent');
$node->wait_until("SELECT goal IS NULL FROM mailchimp_sync.campaign WHERE campaign_id = $campaign");
is(known($crm, $campaign), $sent, 'it is the one that was sent');
like($crm->remains('Back'), qr/^campaigns 1 sends 1 segments \d p1\@example\.org=1 p3\@example\.org=1$/, 'once');

# ---- cancelled or deleted in the copy: nothing of it is left at Mailchimp, unless it was sent

for my $verb (qw(cancel delete))
{
	my %end = (cancel => 'canceled', delete => 'deleted');
	for my $far (qw(draft prepared sent))
	{
		my $name = "$verb $far";
		my $campaign = $crm->campaign($name, '{1,3}');
		my $dump = $crm->dump;
		if ($far ne 'draft')
		{
			$crm->mia('SELECT mc_' . ($far eq 'sent' ? 'send' : 'prepare') . "_campaign($campaign)");
			$crm->wait_status($campaign, $far);
		}
		my $copy = copy_of($dump);
		$copy->ada('SELECT mc_resume()');
		$copy->mia("SELECT mc_${verb}_campaign($campaign)");
		$copy->mia('CALL mc_run()');
		$copy->later(140);
		$copy->mia('CALL mc_run()');
		is($copy->column($campaign, 'status'), $far eq 'sent' ? 'sent' : $end{$verb}, "$verb in the copy what the original has $far");
		is($crm->remains($name), $far eq 'sent' ? 'campaigns 1 sends 1 segments 1 p1@example.org=1 p3@example.org=1'
			: 'campaigns 0 sends 0 segments 0', 'which is then what is at Mailchimp');
	}
}

$node->stop;
done_testing();

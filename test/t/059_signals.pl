# Signals while the worker is at work: who listens is told of each fact once, when it is committed, and of nothing else; a
# reader that keeps its place misses none (R39, R45-R49, R95, R96, N11, D11, D12). Each kind by itself, switches and rights are
# in sql/signal.sql.

use strict;
use warnings;
use JSON::PP;
use McCampaign;
use McTest;
use Test::More;

my $crm = McCampaign->start(people => 8, worker => 1);
my ($node, $sim, $list) = @$crm{qw(node sim list)};
$node->role('rita', level => 'reader');

# A session that listens, and one of somebody who asks for what came after the last number.
my $listener = $node->session(as => 'rita');
$listener->query('LISTEN mc_signal');
my (@told, @read);
my $after = 0;

sub look
{
	push @told, $listener->query('SELECT') =~ /^Asynchronous notification "mc_signal" with payload "(\d+)"/mg;
	for my $line (split /\n/, $node->query("SELECT signal_id, kind, coalesce(contact_key, campaign_id::text, audience, connection),
		detail ->> 'reason' FROM mc_signals('crm', $after)", as => 'rita'))
	{
		my ($id, @what) = split /\|/, $line;
		$after = $id;
		push @read, join ' ', grep { defined && length } @what;
	}
}

# Waits until so many signals have come since the last call, and returns them.
sub signals
{
	my ($count, $meanwhile) = @_;
	McTest::poll("$count signals", sub { $meanwhile->() if $meanwhile; look(); @read >= $count });
	return join ', ', splice @read;
}

sub person { my ($n, $action, %more) = @_; return $sim->post('/_sim/act', { list => $list, email => "p$n\@example.org", action => $action, %more }) }
sub later { $crm->both_later($_[0]) }

# -----------------------------------------------------------------------------------------------------------------
# Campaigns, and what people do with them
# -----------------------------------------------------------------------------------------------------------------

my $id = $crm->campaign('Spring', '{1,2,3,4,5,6,7,8}');
$crm->mia("BEGIN; SELECT mc_send_campaign($id), mc_opt_out('candidate', 1); ROLLBACK");
$crm->mia("SELECT mc_prepare_campaign($id)");
$crm->wait_status($id, 'prepared');
is(signals(1), "campaign_prepared $id", 'R95: a campaign is prepared, and what was rolled back before is no signal');
# what people do by themselves is none either
$crm->mia("SELECT mc_opt_out('candidate', 8, 'by letter')");
$crm->mia("SELECT mc_send_campaign($id)");
$crm->wait_status($id, 'sent');
is(signals(1), "campaign_sent $id", 'and sent');

my $mailchimp_id = $crm->column($id, 'mailchimp_id');
person(1, 'unsubscribe', campaign => $mailchimp_id, reason => 'too much');
$sim->post('/_sim/events', { campaign => $mailchimp_id, events => [ { email => 'p2@example.org', action => 'open' } ] });
# by whichever of list and report it is seen first
my $told = signals(1, sub { later(610) });
is($told, 'unsubscribed 1 too much', 'R45, R95: somebody unsubscribes by the mail');
person(2, 'abuse', campaign => $mailchimp_id);
like(signals(1, sub { later(610) }), qr/^unsubscribed 2 /, 'R39, R45: somebody complains');
person(3, 'unsubscribe', reason => 'moved');
is(signals(1, sub { later(610) }), 'unsubscribed 3 moved', 'R45, R49: on a page of Mailchimp\'s');
# when both have said it
my $polled = "SELECT count(*) = 2 FROM mc_activity WHERE campaign_id = $id AND type = 'unsubscribed'";
my $read = "SELECT count(*) = 4 FROM mc_member WHERE status = 'unsubscribed' AND contact_key IN ('1', '2', '3', '8')";
McTest::poll('list and report', sub { later(610); $crm->mia($polled) eq 't' && $crm->mia($read) eq 't' });
is($crm->mia("SELECT string_agg(concat_ws(' ', contact_key, lower(reason)), ', ' ORDER BY contact_key) FROM mc_group_member"),
	'1 too much, 2 abuse complaint, 3 moved, 8 by letter', 'R45, R49: they are in the opt-out group, with the better of two reasons');
is($crm->mia("SELECT string_agg(contact_key || ' ' || lower(unsubscribe_reason), ', ' ORDER BY contact_key) FROM mc_member
	WHERE unsubscribed_at IS NOT NULL AND contact_key IN ('1', '2', '3')"), '1 too much, 2 abuse complaint, 3 moved', 'and with the member');

# D12: who comes back there stays blocked here
person(3, 'resubscribe');
is(signals(1, sub { later(610) }), 'subscribed 3', 'D12: a signal says that somebody of the group is back');
is($crm->mia("SELECT mc_is_opted_out('candidate', 3)"), 't', 'D12: who is blocked all the same');

# D11: whatever the policy says
$crm->ada(q{SELECT mc_alter_audience('customers', '{"on_unsubscribe": "inactive"}')});
person(4, 'unsubscribe', reason => 'no time');
is(signals(1, sub { later(610) }), 'unsubscribed 4 no time', 'D11: also where the policy is "inactive"');
is($crm->mia("SELECT mc_is_opted_out('candidate', 4)"), 'f', 'D11: who is in the group no more than before');
is($crm->mia("SELECT unsubscribe_reason FROM mc_member WHERE contact_key = '4'"), 'no time', 'and the reason is kept');

# -----------------------------------------------------------------------------------------------------------------
# What keeps failing: once a spell
# -----------------------------------------------------------------------------------------------------------------

sub attempts { return scalar $sim->journal(path => '.') }

for my $spell (1, 2)
{
	$sim->fault(path => '.', times => -1, fault => { type => 'status', status => 500, json => JSON::PP::true });
	like(signals(1, sub { later(700) }), qr/^sync_failed demo unreachable: /, "R95: Mailchimp fails again and again, $spell");
	my $before = attempts();
	McTest::poll('more failures', sub { later(700); attempts() >= $before + 3 });
	$sim->delete('/_sim/faults');
	McTest::poll('it works again', sub { later(700); $crm->mia("SELECT state FROM mc_connection") eq 'ok' });
}

# a template that was looked at lately is not looked at again
later(7200);
my $failing = $crm->campaign('Unready', '{5}');
$sim->fault(path => '^/templates/', times => 1, fault => { type => 'status', status => 404, json => JSON::PP::true });
$crm->mia("SELECT mc_send_campaign($failing)");
$crm->wait_status($failing, 'failed');
like(signals(1), qr/^campaign_failed $failing the template is gone/, 'R95: a campaign fails');

$sim->fault(path => '.', times => -1, fault => { type => 'status', status => 401, json => JSON::PP::true });
like(signals(1, sub { later(700) }), qr/^auth_failed demo /, 'R95: the key is refused');
$sim->delete('/_sim/faults');
$node->wait_until('SELECT NOT EXISTS (SELECT FROM mailchimp_sync.inflight)');
$node->query("SELECT mc_connect('demo', 'demo-us1', endpoint => '" . $sim->url . "')");

# -----------------------------------------------------------------------------------------------------------------
# Who listens and who asks have the same
# -----------------------------------------------------------------------------------------------------------------

# the last one of all, so that whatever else there might be has come before
my $last = $crm->campaign('Last', '{5}');
$crm->mia("SELECT mc_send_campaign($last)");
$crm->wait_status($last, 'sent');
is(signals(1), "campaign_sent $last", 'R96: nothing else has come: once each, and none that has no fact');
my $stored = $crm->mia('SELECT count(*) FROM mc_signal');
McTest::poll('the last notification', sub { look(); @told >= $stored });		# it follows the commit
is("@told", $crm->mia("SELECT string_agg(signal_id::text, ' ' ORDER BY signal_id) FROM mc_signal"),
	'N11: who listens is told of each that is stored, in their order');
is($crm->mia("SELECT count(*) FROM mc_signal WHERE kind = 'unsubscribed' GROUP BY contact_key HAVING count(*) > 1"), '', 'nobody has left twice');

# committed facts alone
$crm->super("BEGIN; SELECT mailchimp_sync.signal_campaign('campaign_sent', $id); ROLLBACK");
look();
is("@read", '', 'N11: what is rolled back is told to nobody');

$listener->quit;
$node->stop;
done_testing();

# Batches of leaves that go wrong (R58, R74, D9, N5, design: doubt): no answer, a refusal, one that never ends or that somebody deletes,
# another tool's batch that could be ours; pauses and dropped audiences. Whatever happens, in the end everybody is where
# the CRM wants them, and nobody else's batch is touched.

use strict;
use warnings;
use JSON::PP;
use McLeave;
use McTest;
use Test::More;

my $many = McLeave->start('main', candidates => 520);
my ($crm, $node, $sim) = @$many{qw(crm node sim)};

# Mailchimp's clock is ahead by two hours, which nothing may depend on.
$sim->post('/_sim/clock', { advance => 7200 });

# A request of another tool of the account.
sub other
{
	my ($method, $path, $body) = @_;
	my $answer = $sim->{http}->request($method, $sim->url . "/3.0$path", { headers => { authorization => 'Bearer demo-us1' },
		$body ? (content => encode_json($body)) : () });
	die "$method $path: $answer->{status}" unless $answer->{success};
	return ($answer->{content} // '') eq '' ? undef : decode_json($answer->{content});
}

sub batch { my ($column) = @_; return $node->query("SELECT $column FROM mailchimp_sync.batch") }

# -----------------------------------------------------------------------------------------------------------------
# No answer to the request that starts it
# -----------------------------------------------------------------------------------------------------------------

# It was started: it is found when the request can no longer land, and seen to its end.
$many->config(batch_until => 'started');
$sim->fault(method => 'POST', path => '^/batches$', fault => 'reset_after');
$many->leave('id <= 510');
$many->wait_until("SELECT count(*) = 1 FROM mailchimp_sync.inflight WHERE kind = 'batch' AND doubt_at IS NOT NULL");
$many->back('id IN (1, 2, 3, 4)');
$crm->later(100);
$crm->run;
is($many->work, 'batch POST 1', 'no answer: nothing is asked while it may land yet, nobody is sent');
$crm->later(31);
$many->wait_until("SELECT count(*) = 1 FROM mailchimp_sync.batch WHERE phase = 'look' AND mailchimp_id IS NOT NULL");
$many->finish;
like($many->work, qr/^batch GET \d+, push POST \d$/, 'then it is found and waited for');
is($many->posted, '510', 'there is one');
$many->in_step('a lost answer');

# It was not, but another tool has started one in that time, which might be ours until it shows what it is.
$many->config(batch_until => 'pending');
$sim->fault(method => 'POST', path => '^/batches$', fault => 'reset_before');
$many->leave('id <= 510');
$many->wait_until("SELECT count(*) = 1 FROM mailchimp_sync.inflight WHERE kind = 'batch' AND doubt_at IS NOT NULL");
my $foreign = other('POST', '/batches', { operations => [ { method => 'GET', path => '/ping' } ] })->{id};
$crm->later(131);
$many->wait_until("SELECT count(*) = 1 FROM mailchimp_sync.batch WHERE mailchimp_id = '$foreign'");
$many->config(batch_until => 'started');
$crm->later(60);
$many->wait_until("SELECT bool_and(mailchimp_id <> '$foreign') FROM mailchimp_sync.batch WHERE phase = 'look'");
is($many->posted, '1 510', 'no batch came of it: another one is started');
$many->back('id <= 505');
$crm->later(3600);
$many->wait_until("SELECT count(*) = 1 FROM mailchimp_sync.batch WHERE phase = 'verify'");
is($many->states, 'finished started (pending)', 'ours is deleted when its time is over, somebody else\'s is not');
$crm->later(60);
$crm->run;
is($many->work =~ s/GET \d+/GET/r, 'batch DELETE 1, batch GET, batch POST 2', 'its last operations are waited for');
$crm->later(71);
$many->quiet(0);
is($many->work, 'batch GET 1, leave DELETE 5, push POST 2', 'and who has not left by then leaves alone');
$many->in_step('a lost request');

# It did nothing, so the next ones leave one by one for an hour.
$many->one_by_one('DELETE', 'id <= 510');
like($many->work, qr/^leave DELETE \d+, push POST \d$/, 'after one that did nothing there is none for an hour');
other('DELETE', "/batches/$foreign");
$many->config(batch_until => 'finished');
$crm->later(3600);
$many->in_step('one by one');

# -----------------------------------------------------------------------------------------------------------------
# A refusal
# -----------------------------------------------------------------------------------------------------------------

$sim->hold(method => 'POST', path => '^/batches$', when => 'before');
$sim->fault(method => 'POST', path => '^/batches$', fault => { type => 'status', status => 429, json => JSON::PP::true });
$many->leave('id <= 510');
$many->wait_until('SELECT EXISTS (SELECT FROM mailchimp_sync.batch)');
$sim->wait_held;
$many->back('id > 3');
$many->wait_until("SELECT count(*) = 0 FROM mailchimp_sync.event");
$sim->release;
McTest::poll('the leaves', sub { $many->count('archived', 'id <= 3') == 3 });
$many->quiet(0);
is($many->work, 'batch POST 1, leave DELETE 3, push POST 2', 'Mailchimp takes no more batches: who leaves does so alone');
$many->in_step('a refusal');
$crm->later(600);

# -----------------------------------------------------------------------------------------------------------------
# Answers that are of no use
# -----------------------------------------------------------------------------------------------------------------

$many->config(batch_until => 'started');
$many->leave('id <= 510');
$many->quiet(1);
$many->back('id = 7');
$sim->fault(method => 'GET', path => '^/batches/', times => -1, fault => { type => 'status', status => 500, json => JSON::PP::true });
$crm->later(60);
$many->wait_until("SELECT count(*) = 1 FROM mc_failure WHERE work = 'leave' AND contact_key IS NULL AND title = 'Internal Server Error'");
pass('R62: Mailchimp cannot say how it is');
# it rests for longer than the test takes
$node->query("UPDATE mailchimp_sync.batch SET next_attempt_at = mailchimp_sync.clock() + interval '1 hour'");
$sim->delete("/_sim/faults");
my @useless = ('garbage', 'cut', 'html_502', { type => 'huge', bytes => 80_000_000 }, { type => 'status', status => 200, body => {} });
$sim->fault(method => 'GET', path => '^/batches/', nth => $_, fault => $useless[$_ - 1]) for 1 .. @useless;
$sim->fault(method => 'GET', path => '/members$', times => 2, fault => 'garbage');
my $asked = $sim->get('/_sim/journal')->{last};
$many->config(batch_until => 'finished');
is($crm->max("SELECT mc_retry('people')"), 1, 'mc_retry asks again');
for (1 .. @useless) { $crm->later(60); $many->wait_until('SELECT NOT EXISTS (SELECT FROM mailchimp_sync.inflight)') }
$many->quiet(0);
is(scalar(grep { $_->{fault} && $_->{path} =~ m{^/batches/} } $sim->journal(since => $asked)), scalar @useless, 'every useless answer was heard');
is($many->posted, '510', 'and it was started once');
$many->in_step('useless answers');

# -----------------------------------------------------------------------------------------------------------------
# While it runs: deleted by somebody, paused, its audience dropped
# -----------------------------------------------------------------------------------------------------------------

$many->config(batch_until => 'finalizing');
$many->leave('id <= 510');
$many->quiet(1);
McTest::poll('its operations', sub { $many->count('archived', 'id <= 510') == 510 });
$many->back('id = 5');
other('DELETE', '/batches/' . batch('mailchimp_id'));
$crm->later(60);
$many->wait_until("SELECT count(*) = 1 FROM mailchimp_sync.batch WHERE phase = 'verify'");
$crm->later(100);
$crm->run;
is(batch('count(*)'), 1, 'somebody deletes it: its last operation may be on its way');
$crm->later(31);
$many->quiet(0);
is($many->posted, '510', 'that was all');
$many->in_step('a deleted batch');

$many->leave('id <= 510');
$many->quiet(1);
$crm->ann("SELECT mc_pause('main', 'people')");
$many->work;
$crm->later(120);
$crm->run;
$many->back('id = 6');
is($many->work, '', 'an audience that is paused: nothing is asked');
$crm->ann("SELECT mc_resume('main', 'people')");
$many->finish;
like($many->work, qr/^batch GET \d+, push POST 1$/, 'mc_resume: it goes on');
$many->in_step('a pause');

# Nothing more is archived for an audience that is dropped; another one of the same list waits for what may still come.
$many->config(batch_until => 'started');
$many->leave('id <= 510');
$many->quiet(1);
McTest::poll('half of it', sub { $many->count('archived', 'id <= 510') == 255 });
$crm->ann("SELECT mc_drop_audience('people')");
McTest::poll('its end', sub { $many->states =~ /\(started\)$/ });
pass('an audience that is dropped: its batch is stopped');
$many->config(batch_until => 'finished');
$crm->ann("UPDATE crm.candidate SET active = true; SELECT mc_create_audience('people', 'main', 'Customers', 'candidate', 'active')");
$crm->max("SELECT mc_sync_audience('people')");
$many->wait_until('SELECT in_sync = 10 FROM mc_audience_status');
is($crm->status, 'in_sync 10 pending 510', 'made anew, it waits for them');
$crm->later(131);
$many->quiet(0);
$many->in_step('an audience made anew');

# A connection that is another account's by now knows nothing of it.
$many->config(batch_until => 'pending');
$many->leave('id <= 510');
$many->quiet(1);
$sim->post('/_sim/accounts', { key => 'other-us1', lists => [ { name => 'Customers', id => $crm->{list} . '2' } ] });
$crm->ann("SELECT mc_connect('main', 'other-us1', switch_account => true)");
is(batch('count(*)'), 0, 'another account: it is forgotten');

done_testing();
